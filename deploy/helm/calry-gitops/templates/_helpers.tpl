{{- define "calry-gitops.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "calry-gitops.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "calry-gitops.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "calry-gitops.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "calry-gitops.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "calry-gitops.fullname" .) "default") }}
{{- end }}

{{- define "calry-gitops.selector" -}}
app.kubernetes.io/name: {{ include "calry-gitops.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "calry-gitops.labels" -}}
{{- $own := include "calry-gitops.selector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- merge $own .Values.commonLabels | toYaml }}
{{- end }}

{{- define "calry-gitops.metadata" -}}
name: {{ include "calry-gitops.fullname" . }}
labels:
  {{- include "calry-gitops.labels" . | nindent 2 }}
{{- end }}

{{- define "calry-gitops.image" -}}
{{ .repository }}{{ with .digest }}@{{ . }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "calry-gitops.leases" -}}
{{- $name := .Values.leaderElection.leaseName | default (include "calry-gitops.fullname" .) }}
{{- if gt (int .Values.shards) 1 }}
{{- range $shard := until (int .Values.shards) }}
- {{ printf "%s-%d" $name $shard | quote }}
{{- end }}
{{- else }}
- {{ $name | quote }}
{{- end }}
{{- end }}

{{- define "calry-gitops.externalUrl" -}}
{{- with .Values.ingress }}
{{- if $.Values.admin.externalUrl }}
{{- $.Values.admin.externalUrl }}
{{- else if .enabled }}
{{- with first .hosts }}{{ $.Values.ingress.tls | empty | ternary "http" "https" }}://{{ .host }}{{ (first .paths).path }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Not empty if the daemon uses the API server. */}}
{{- define "calry-gitops.asks" -}}
{{- if or .Values.leaderElection.enabled .Values.events.enabled }}yes{{ end }}
{{- end }}

{{- /* The claim of the volume that keeps the daemon's memory; empty without one. */}}
{{- define "calry-gitops.claim" -}}
{{- if .Values.persistence.enabled }}
{{- .Values.persistence.existingClaim | default (printf "%s-state" (include "calry-gitops.fullname" .)) }}
{{- end }}
{{- end }}

{{- /* Everything that is wrong with the values and that the schema cannot say, one sentence a line. */}}
{{- define "calry-gitops.problems" -}}
{{- $source := .Values.source }}
{{- $git := ne $source "configmap" }}
{{- $auth := .Values.git.auth }}
{{- $own := or .Values.workspaces .Values.config.workspaces }}
{{- if and $git (not .Values.git.repository) }}
- set git.repository to the repository of your definitions, such as https://git.example.com/acme/definitions.git
{{- end }}
{{- if and $git (ne $auth.type "none") (not $auth.existingSecret) }}
- set git.auth.existingSecret to the Secret with the credentials of the repository, as git.auth.type is {{ $auth.type }}
{{- end }}
{{- if eq $source "git" }}
{{- if and .Values.git.repository (not (hasPrefix "https://" .Values.git.repository)) }}
- git.repository is an address for SSH and source is git, which reads https: set an address that begins with https://, or source to git-sync
{{- end }}
{{- if eq $auth.type "ssh" }}
- git.auth.type is ssh and source is git, which reads https: set git.auth.type to token or github-app, or source to git-sync
{{- end }}
{{- if hasKey .Values.config "definitions" }}
- config.definitions is set and source is git: the daemon reads a directory or a repository, so remove one of them
{{- end }}
{{- end }}
{{- if eq $source "git-sync" }}
{{- if eq $auth.type "github-app" }}
- git.auth.type is github-app and source is git-sync: set source to git
{{- end }}
{{- if .Values.git.interval }}
- git.interval is set and source is git-sync: set gitSync.period instead
{{- end }}
{{- end }}
{{- if and $git (eq $auth.type "github-app") }}
{{- range $key := list "appId" "installationId" }}
{{- if not (get $auth $key) }}
- set git.auth.{{ $key }} to the id that GitHub shows, as git.auth.type is github-app
{{- end }}
{{- end }}
{{- end }}
{{- if not $own }}
{{- if not .Values.calry.apiKey.existingSecret }}
- set calry.apiKey.existingSecret to the Secret with your API key, in its key {{ .Values.calry.apiKey.key }}
{{- end }}
{{- if and (not $git) (not .Values.definitions.existingConfigMap) }}
- set definitions.existingConfigMap to the ConfigMap with the definitions, as source is configmap
{{- end }}
{{- end }}
{{- range .Values.workspaces }}
{{- if not (dig "apiKey" "existingSecret" "" .) }}
- set apiKey.existingSecret of the workspace {{ .name }} to the Secret with its API key
{{- end }}
{{- if and (not $git) (not .existingConfigMap) }}
- set existingConfigMap of the workspace {{ .name }} to the ConfigMap with its definitions, as source is configmap
{{- end }}
{{- end }}
{{- if and .Values.backups.recipients (not .Values.backups.existingClaim) }}
- set backups.existingClaim to the PersistentVolumeClaim for the backups, as backups.recipients is set
{{- end }}
{{- if and .Values.workspaces .Values.config.workspaces }}
- workspaces and config.workspaces are both set: describe the workspaces in one of them
{{- end }}
{{- range $key, $value := dict "apiUrl" "calry.apiUrl" "gitUrl" "git.repository" "notifications" "notifications.targets" "shards" "shards"
    "leaderElection" "leaderElection.enabled" "leaseName" "leaderElection.leaseName" "kubernetesEvents" "events.enabled" }}
{{- if hasKey $.Values.config $key }}
- set {{ $value }} instead of config.{{ $key }}: other objects of the release depend on it
{{- end }}
{{- end }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- if not .Values.leaderElection.enabled }}
- replicaCount is {{ .Values.replicaCount }} without leaderElection.enabled: the replicas would undo each other's updates; set replicaCount to 1
{{- end }}
{{- if .Values.persistence.enabled }}
- replicaCount is {{ .Values.replicaCount }} with persistence.enabled: the volume is for one daemon; set replicaCount to 1
{{- end }}
{{- end }}
{{- if and (gt (int .Values.shards) 1) (not .Values.leaderElection.enabled) }}
- shards is {{ .Values.shards }} without leaderElection.enabled: each shard is a Lease; set shards to 1
{{- end }}
{{- range $value := list "allowedSigners" "allowedKeys" }}
{{- if and (not $git) (get $.Values $value).existingConfigMap }}
- {{ $value }} is set and source is configmap: only commits have signatures; set source to git
{{- end }}
{{- end }}
{{- with .Values.verify }}
{{- if not (include "calry-gitops.verifies" $) }}
- verify is {{ . }} without keys to verify with: set allowedSigners.existingConfigMap or allowedKeys.existingConfigMap
{{- end }}
{{- if and (eq . "tag") (ne $source "git") }}
- verify is tag and source is {{ $source }}: only the daemon's own fetch sees tags; set source to git
{{- end }}
{{- end }}
{{- end }}

{{- /* Not empty if commits must be signed. */}}
{{- define "calry-gitops.verifies" -}}
{{- if or .Values.allowedSigners.existingConfigMap .Values.allowedKeys.existingConfigMap }}yes{{ end }}
{{- end }}

{{- /* The configuration file; empty if it would set nothing. */}}
{{- define "calry-gitops.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $workspaces := list }}
{{- range .Values.workspaces }}
{{- $own := dict "name" .name }}
{{- if eq $.Values.source "git" }}
{{- $_ := set $own "gitPath" (.directory | default .name) }}
{{- else if eq $.Values.source "git-sync" }}
{{- $_ := set $own "definitions" (printf "/git/current/%s" (.directory | default .name)) }}
{{- else }}
{{- $_ := set $own "definitions" (printf "/definitions/%s" .name) }}
{{- end }}
{{- $_ := set $own "apiKeyFile" (printf "/run/calry/%s/api-key/%s" .name (dig "apiKey" "key" "api-key" .)) }}
{{- with dig "apiKey" "expires" "" . }}
{{- $_ := set $own "apiKeyExpires" . }}
{{- end }}
{{- if dig "secrets" "existingSecret" "" . }}
{{- $_ := set $own "secretsDir" (printf "/run/calry/%s/secrets" .name) }}
{{- end }}
{{- $workspaces = append $workspaces (merge $own (.config | default dict)) }}
{{- end }}
{{- with $workspaces }}
{{- $_ := set $config "workspaces" . }}
{{- end }}
{{- with .Values.notifications.targets }}
{{- $_ := set $config "notifications" . }}
{{- end }}
{{- with $config }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- /* The Secrets that the daemon reads: name of the volume, path, and name of the Secret. */}}
{{- define "calry-gitops.secrets" -}}
{{- if not (or .Values.workspaces .Values.config.workspaces) }}
- {name: api-key, path: /run/calry/api-key, secretName: {{ .Values.calry.apiKey.existingSecret | quote }}}
{{- with .Values.calry.secrets.existingSecret }}
- {name: secrets, path: /run/calry/secrets, secretName: {{ . | quote }}, optional: true}
{{- end }}
{{- end }}
{{- range .Values.workspaces }}
- {name: {{ .name }}-api-key, path: /run/calry/{{ .name }}/api-key, secretName: {{ dig "apiKey" "existingSecret" "" . | quote }}}
{{- if dig "secrets" "existingSecret" "" . }}
- {name: {{ .name }}-secrets, path: /run/calry/{{ .name }}/secrets, secretName: {{ .secrets.existingSecret | quote }}, optional: true}
{{- end }}
{{- end }}
{{- if and (eq .Values.source "git") (ne .Values.git.auth.type "none") }}
- {name: git, path: /run/calry/git, secretName: {{ .Values.git.auth.existingSecret | quote }}}
{{- end }}
{{- with .Values.ageIdentity.existingSecret }}
- {name: age-identity, path: /run/calry/age-identity, secretName: {{ . | quote }}}
{{- end }}
{{- with .Values.notifications.existingSecret }}
- {name: notifications, path: /run/calry/notifications, secretName: {{ . | quote }}}
{{- end }}
{{- with .Values.admin.token.existingSecret }}
- {name: admin-token, path: /run/calry/admin-token, secretName: {{ . | quote }}}
{{- end }}
{{- range $of, $hook := .Values.hooks }}
{{- with $hook.existingSecret }}
- {name: {{ $of }}-hook, path: /run/calry/hooks/{{ $of }}, secretName: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- /* The settings of the daemon, as variables. Its own defaults are left out. */}}
{{- define "calry-gitops.env" -}}
{{- $own := or .Values.workspaces .Values.config.workspaces }}
{{- if eq .Values.source "git" }}
{{- with .Values.git }}
- name: CALRY_GIT_URL
  value: {{ .repository | quote }}
{{- with .ref }}
- name: CALRY_GIT_REF
  value: {{ . | quote }}
{{- end }}
{{- if not (or $own (eq .directory "definitions")) }}
- name: CALRY_GIT_PATH
  value: {{ .directory | default "." | quote }}
{{- end }}
{{- with .interval }}
- name: CALRY_GIT_INTERVAL
  value: {{ . | quote }}
{{- end }}
- name: CALRY_GIT_DIR
  value: /var/lib/calry-gitops-git
{{- if eq .auth.type "token" }}
- name: CALRY_GIT_TOKEN_FILE
  value: /run/calry/git/token
- name: CALRY_GIT_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .auth.existingSecret | quote }}
      key: username
      optional: true
{{- else if eq .auth.type "github-app" }}
- name: CALRY_GIT_GITHUB_APP_ID
  value: {{ include "calry-gitops.identifier" .auth.appId | quote }}
- name: CALRY_GIT_GITHUB_INSTALLATION_ID
  value: {{ include "calry-gitops.identifier" .auth.installationId | quote }}
- name: CALRY_GIT_GITHUB_APP_KEY_FILE
  value: /run/calry/git/private-key
{{- end }}
{{- with .caBundle }}
{{- if .existingConfigMap }}
- name: CALRY_GIT_CA_FILE
  value: /run/calry/git-ca-bundle/{{ .key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $own }}
{{- if ne .Values.source "git" }}
- name: CALRY_DEFINITIONS
  value: {{ if eq .Values.source "git-sync" }}/git/current{{ with .Values.git.directory }}/{{ . }}{{ end }}{{ else }}/definitions{{ end }}
{{- end }}
- name: CALRY_API_KEY_FILE
  value: /run/calry/api-key/{{ .Values.calry.apiKey.key }}
{{- with .Values.calry.apiKey.expires }}
- name: CALRY_API_KEY_EXPIRES
  value: {{ . | quote }}
{{- end }}
{{- if .Values.calry.secrets.existingSecret }}
- name: CALRY_SECRETS_DIR
  value: /run/calry/secrets
{{- end }}
{{- end }}
{{- if include "calry-gitops.config" . }}
- name: CALRY_CONFIG
  value: /etc/calry-gitops/calry-gitops.yaml
{{- end }}
- name: CALRY_STATE_DIR
  value: /var/lib/calry-gitops
- name: CALRY_LISTEN
  value: "[::]:8080"
- name: CALRY_LOG_FORMAT
  value: json
{{- with .Values.mode }}
- name: CALRY_MODE
  value: {{ . | quote }}
{{- end }}
{{- with .Values.interval }}
- name: CALRY_INTERVAL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.calry.apiUrl }}
- name: CALRY_API_URL
  value: {{ . | quote }}
{{- end }}
{{- with toString .Values.maxChanges }}
- name: CALRY_MAX_CHANGES
  value: {{ . | quote }}
{{- end }}
{{- with .Values.git.webUrl }}
- name: CALRY_REPOSITORY_URL
  value: {{ . | quote }}
{{- end }}
{{- with include "calry-gitops.externalUrl" . }}
- name: CALRY_EXTERNAL_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.admin.token }}
{{- if .existingSecret }}
- name: CALRY_ADMIN_TOKEN_FILE
  value: /run/calry/admin-token/{{ .key }}
{{- end }}
{{- end }}
{{- range $of, $hook := .Values.hooks }}
{{- if $hook.existingSecret }}
- name: CALRY_{{ upper $of }}_HOOK_SECRET_FILE
  value: /run/calry/hooks/{{ $of }}/{{ $hook.key }}
{{- end }}
{{- end }}
{{- with .Values.leaderElection }}
{{- if .enabled }}
- name: CALRY_LEADER_ELECTION
  value: "true"
- name: CALRY_LEASE_NAME
  value: {{ .leaseName | default (include "calry-gitops.fullname" $) | quote }}
{{- with .leaseDuration }}
- name: CALRY_LEASE_DURATION
  value: {{ . | quote }}
{{- end }}
{{- with .renewDeadline }}
- name: CALRY_LEASE_RENEW_DEADLINE
  value: {{ . | quote }}
{{- end }}
{{- with .retryPeriod }}
- name: CALRY_LEASE_RETRY_PERIOD
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if gt (int .Values.shards) 1 }}
- name: CALRY_SHARDS
  value: {{ int .Values.shards | quote }}
{{- end }}
{{- if .Values.events.enabled }}
- name: CALRY_KUBERNETES_EVENTS
  value: "true"
{{- end }}
{{- if .Values.allowedSigners.existingConfigMap }}
- name: CALRY_ALLOWED_SIGNERS
  value: /run/calry/allowed-signers/allowed_signers
{{- end }}
{{- if .Values.allowedKeys.existingConfigMap }}
- name: CALRY_ALLOWED_KEYS
  value: /run/calry/allowed-keys/allowed_keys.asc
{{- end }}
{{- if .Values.ageIdentity.existingSecret }}
- name: CALRY_AGE_IDENTITY_FILE
  value: /run/calry/age-identity/identity.txt
{{- end }}
{{- if .Values.policies.existingConfigMap }}
- name: CALRY_POLICIES
  value: /run/calry/policies/policies.yaml
{{- end }}
{{- with .Values.backups.recipients }}
- name: CALRY_BACKUP_DIR
  value: /var/backups/calry-gitops
- name: CALRY_BACKUP_RECIPIENT
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.verify }}
- name: CALRY_VERIFY
  value: {{ . | quote }}
{{- end }}
{{- if include "calry-gitops.asks" . }}
{{- /* Standbys forward webhooks to POD_IP of the leader. */}}
{{- range $name, $field := dict "POD_IP" "status.podIP" "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_UID" "metadata.uid" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $field }}
{{- end }}
{{- end }}
{{- with .Values.caBundle }}
{{- if .existingConfigMap }}
- name: SSL_CERT_FILE
  value: /run/calry/ca-bundle/{{ .key }}
{{- end }}
{{- end }}
{{- include "calry-gitops.proxy" . }}
{{- with .Values.otlp.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* An id that may be a number: Helm reads numbers of a file as floating point. */}}
{{- define "calry-gitops.identifier" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ int64 . }}{{ end }}
{{- end }}

{{- define "calry-gitops.proxy" -}}
{{- with .Values.proxy.url }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.noProxy }}
- name: NO_PROXY
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* The ports of everything that the values name by a URL, and of Calry and git. */}}
{{- define "calry-gitops.ports" -}}
{{- $ports := dict }}
{{- $git := "" }}
{{- if ne .Values.source "configmap" }}
{{- $git = regexReplaceAll "^[^:/@ ]+@[^:/ ]+:" .Values.git.repository "ssh://git/" }}
{{- end }}
{{- $named := list $git (.Values.calry.apiUrl | default "https://calry") .Values.proxy.url .Values.otlp.endpoint .Values.config
    .Values.workspaces .Values.notifications.targets .Values.extraEnv .Values.gitSync.extraEnv }}
{{- range regexFindAll "(https?|ssh)://[^/\\s\"'?,]+" (toYaml $named) -1 }}
{{- $default := dict "http" "80" "https" "443" "ssh" "22" | dig (first (splitList ":" .)) "443" }}
{{- $_ := set $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default $default) true }}
{{- end }}
{{- range sortAlpha (keys $ports) }}
- {{ . }}
{{- end }}
{{- end }}
